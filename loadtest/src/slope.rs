//! Whether a number grows over time.

/// How much the number grows in a second, by least squares; `None` of fewer than two moments.
pub fn per_second(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 2 {
        return None;
    }
    let count: f64 = points.iter().map(|_| 1.0).sum();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (middle, level) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - middle).powi(2)).sum();
    let common: f64 = points.iter().map(|point| (point.0 - middle) * (point.1 - level)).sum();
    (spread > 0.0).then(|| common / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_has_a_slope_and_what_wavers_has_none() {
        let points = |of: fn(f64) -> f64| (0..100).map(f64::from).map(|x| (x, of(x))).collect::<Vec<_>>();
        let slope = |of| per_second(&points(of)).expect("a slope");
        assert!((slope(|x| 7.0 + 3.0 * x) - 3.0).abs() < 1e-9);
        assert!(slope(|x| if x % 2.0 < 1.0 { 5.0 } else { 6.0 }).abs() < 1e-3);
        assert_eq!(per_second(&[(1.0, 1.0)]), None);
        assert_eq!(per_second(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }
}
