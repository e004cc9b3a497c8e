//! Areas on earth, for devices that say where they are (`geo-lat` and `geo-lon` in scope `inventory`).

use super::index::Place;
use super::statement::Statement;
use super::{InventoryDevice, record};

/// Metres: the mean radius of the earth (IUGG).
const EARTH_RADIUS: f64 = 6_371_008.8;

/// A part of the earth's surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area(Shape);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Within a distance, told by the square of the chord between points on the unit sphere.
    Around { point: [f64; 3], chord_squared: f64 },
    /// Between parallels and meridians, eastwards from the western one.
    Box { north_west: Place, south_east: Place },
}

impl Area {
    /// Within so many metres of a place in degrees; `None` if there is no such place or distance.
    #[must_use]
    pub fn around(latitude: f64, longitude: f64, metres: f64) -> Option<Self> {
        let place = Place::new(latitude, longitude)?;
        if !metres.is_finite() || metres < 0.0 {
            return None;
        }
        let half_angle = (metres / EARTH_RADIUS / 2.0).min(std::f64::consts::FRAC_PI_2);
        let chord_squared = (2.0 * half_angle.sin()).powi(2);
        Some(Self(Shape::Around { point: place.point(), chord_squared }))
    }

    /// Between two corners in degrees, (latitude, longitude); `None` if one is no place.
    #[must_use]
    pub fn between(north_west: (f64, f64), south_east: (f64, f64)) -> Option<Self> {
        let north_west = Place::new(north_west.0, north_west.1)?;
        Some(Self(Shape::Box { north_west, south_east: Place::new(south_east.0, south_east.1)? }))
    }

    /// Whether the device says that it is there.
    #[must_use]
    pub fn holds(&self, device: &InventoryDevice) -> bool {
        let Some(place) = record::Record::shown(device).index().place else { return false };
        match self.0 {
            Shape::Around { point, chord_squared } => {
                let [x, y, z] = place.point();
                (x - point[0]) * (x - point[0]) + (y - point[1]) * (y - point[1]) + (z - point[2]) * (z - point[2])
                    <= chord_squared
            }
            Shape::Box { north_west, south_east } => {
                let (west, east) = (north_west.longitude, south_east.longitude);
                let from_west = place.longitude >= west;
                let to_east = place.longitude <= east;
                (south_east.latitude..=north_west.latitude).contains(&place.latitude)
                    && if west <= east { from_west && to_east } else { from_west || to_east }
            }
        }
    }

    pub(super) fn write(&self, statement: &mut Statement) {
        match self.0 {
            Shape::Around { point: [x, y, z], chord_squared } => {
                statement.push("((i.place_x - ").bind(x).push(") * (i.place_x - ").bind(x);
                statement.push(") + (i.place_y - ").bind(y).push(") * (i.place_y - ").bind(y);
                statement.push(") + (i.place_z - ").bind(z).push(") * (i.place_z - ").bind(z);
                statement.push(") <= ").bind(chord_squared).push(")");
            }
            Shape::Box { north_west, south_east } => {
                let (west, east) = (north_west.longitude, south_east.longitude);
                statement.push("(i.latitude >= ").bind(south_east.latitude);
                statement.push(" AND i.latitude <= ").bind(north_west.latitude);
                statement.push(" AND (i.longitude >= ").bind(west);
                statement.push(if west <= east { " AND " } else { " OR " });
                statement.push("i.longitude <= ").bind(east).push("))");
            }
        }
    }
}

/// The words that stand for a unit of length, and its metres. (`OpenSearch`: distance units.)
const UNITS: [(&str, f64); 9] = [
    ("nmi", 1852.0),
    ("km", 1000.0),
    ("cm", 0.01),
    ("mm", 0.001),
    ("mi", 1609.344),
    ("yd", 0.9144),
    ("ft", 0.3048),
    ("in", 0.0254),
    ("m", 1.0),
];

/// Reads a distance such as `10km` into metres; without a unit they are metres.
#[must_use]
pub fn distance(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, metres) = UNITS
        .iter()
        .find_map(|(unit, metres)| text.strip_suffix(unit).map(|number| (number, *metres)))
        .unwrap_or((text, 1.0));
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * metres)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_units() {
        assert_eq!(distance("10km"), Some(10_000.0));
        assert_eq!(distance("1 nmi"), Some(1852.0));
        assert_eq!(distance("5"), Some(5.0));
        assert_eq!(distance("far"), None);
        assert_eq!(distance("-1km"), None);
    }

    #[test]
    fn an_area_needs_places_on_earth() {
        assert!(Area::around(91.0, 0.0, 1.0).is_none());
        assert!(Area::around(0.0, 0.0, -1.0).is_none());
        assert!(Area::between((10.0, 170.0), (-10.0, -170.0)).is_some());
    }
}
