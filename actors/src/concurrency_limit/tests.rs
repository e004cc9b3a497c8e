use super::*;

fn state(config: &Config) -> State<usize> {
    State::new(config)
}

/// A backend that answers `together` requests in the time of one, and makes others wait: so long takes an answer while
/// `inside` are asking.
fn backend(together: u32, alone: Duration) -> impl Fn(u32) -> Duration {
    move |inside| alone.mul_f64((f64::from(inside) / f64::from(together)).max(1.0))
}

/// Lets a storm in until `answers` were given, with a line that never ends; the limit then, and the most at once.
fn storm(state: &mut State<usize>, now: &mut Instant, answers: usize, takes: impl Fn(u32) -> Duration) -> f64 {
    for number in 0..answers {
        while state.try_enter() {}
        let _ = state.line_up(number, false, *now);
        let inside = u32::try_from(state.inside).unwrap();
        let took = takes(inside);
        *now += took / inside;
        state.leave(Some(took), *now);
        let _called = state.call(*now, usize::MAX, |_| true);
    }
    state.limit
}

#[tokio::test]
async fn the_limit_settles_where_requests_begin_to_wait_for_one_another() {
    for (together, least, most) in [(2, 4.0, 12.0), (32, 32.0, 42.0), (100, 95.0, 112.0)] {
        for alone in [5, 50] {
            let (mut state, mut now) = (state(&Config::default()), Instant::now());
            let limit = storm(&mut state, &mut now, 20_000, backend(together, Duration::from_millis(alone)));
            assert!((least..=most).contains(&limit), "{limit} for a backend of {together}, {alone} ms");
        }
    }
}

#[tokio::test]
async fn a_backend_that_becomes_slow_is_asked_less_and_later_as_before() {
    let (mut state, mut now) = (state(&Config::default()), Instant::now());
    let healthy = backend(64, Duration::from_millis(5));
    let before = storm(&mut state, &mut now, 20_000, &healthy);
    let slow = storm(&mut state, &mut now, 500, backend(4, Duration::from_millis(40)));
    assert!(slow < 12.0, "{slow} of {before}");
    let after = storm(&mut state, &mut now, 20_000, healthy);
    assert!((after - before).abs() < 16.0, "{after} after {before}");
}

#[tokio::test]
async fn the_limit_keeps_its_bounds() {
    let config = Config { at_once: 20, ..Config::default() };
    let (mut state, mut now) = (state(&config), Instant::now());
    let limit = storm(&mut state, &mut now, 5_000, |_| Duration::from_millis(1));
    assert!((limit - 20.0).abs() < f64::EPSILON, "{limit}");
    // Whatever it costs, a few at a time are let in.
    let limit = storm(&mut state, &mut now, 5_000, |inside| Duration::from_millis(10) * inside);
    assert!((BEGIN..=MANY).contains(&limit), "{limit}");
}

#[tokio::test]
async fn without_a_storm_the_limit_does_not_grow() {
    let (mut state, now) = (state(&Config::default()), Instant::now());
    for _ in 0..10_000 {
        assert!(state.try_enter());
        state.leave(Some(Duration::from_micros(10)), now);
    }
    assert!((state.limit - BEGIN).abs() < f64::EPSILON, "{}", state.limit);
}

#[tokio::test]
async fn the_fastest_answer_is_forgotten_after_a_while() {
    let (mut fastest, begin) = (Fastest::default(), Instant::now());
    fastest.see(Duration::from_millis(1), begin);
    for seconds in [10, 31, 59] {
        fastest.see(Duration::from_millis(9), begin + Duration::from_secs(seconds));
        assert_eq!(fastest.get(), Duration::from_millis(1), "after {seconds} s");
    }
    fastest.see(Duration::from_millis(9), begin + Duration::from_secs(62));
    assert_eq!(fastest.get(), Duration::from_millis(9));
}

#[tokio::test]
async fn the_urgent_go_first_and_each_line_has_an_end() {
    let config = Config { at_once: 1, waiting: 2, ..Config::default() };
    let (mut state, now) = (state(&config), Instant::now());
    assert!(state.try_enter());
    assert!(!state.try_enter());
    assert!(state.line_up(1, false, now) && state.line_up(2, false, now) && !state.line_up(3, false, now));
    assert!(state.line_up(4, true, now) && state.line_up(5, true, now) && !state.line_up(6, true, now));
    let mut order = Vec::new();
    for _ in 0..5 {
        state.leave(None, now);
        // Who waits is not overtaken.
        assert!(state.waiting() == 0 || !state.try_enter());
        order.extend(state.call(now, usize::MAX, |_| true));
    }
    assert_eq!(order, [4, 5, 1, 2]);
    assert_eq!((state.inside, state.waiting()), (0, 0));
}

#[tokio::test]
async fn who_has_left_the_line_is_passed_over() {
    let config = Config { at_once: 1, ..Config::default() };
    let (mut state, now) = (state(&config), Instant::now());
    assert!(state.try_enter());
    for number in 0..1000 {
        assert!(state.line_up(number, false, now));
    }
    state.leave(None, now);
    assert_eq!(state.call(now, usize::MAX, |number| *number == 999), [999]);
    assert_eq!((state.inside, state.waiting()), (1, 0));
}

#[tokio::test]
async fn a_full_line_and_a_long_wait_are_told_when_to_come_back() {
    let config = Config { at_once: 1, waiting: 1, patience: Duration::from_millis(100) };
    let limit = ConcurrencyLimit::new("test", &config);
    let inside = limit.enter(|| unreachable!("nothing to wait for")).await.unwrap();
    let waiting = tokio::spawn({
        let limit = limit.clone();
        async move { limit.enter(|| false).await.map(drop) }
    });
    tokio::task::yield_now().await;
    let refused = limit.enter(|| false).await.unwrap_err();
    assert!(!waiting.is_finished(), "the line was full at once");
    assert!((SHORTEST_AWAY..=LONGEST_AWAY).contains(&refused.retry_after), "{refused:?}");
    waiting.await.unwrap().unwrap_err();
    drop(inside);
    limit.enter(|| unreachable!("the one who gave up is not waited for")).await.unwrap();
}

#[tokio::test]
async fn a_permit_goes_on_to_who_waits_also_when_the_one_before_has_gone() {
    let limit = ConcurrencyLimit::new("test", &Config { at_once: 1, ..Config::default() });
    let inside = limit.enter(|| false).await.unwrap();
    let line: Vec<_> = (0..3)
        .map(|_| {
            let limit = limit.clone();
            tokio::spawn(async move { limit.enter(|| false).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    // One leaves the line, and one leaves it just when it was called.
    line[0].abort();
    tokio::task::yield_now().await;
    drop(inside);
    line[1].abort();
    let [_, _, last]: [_; 3] = line.try_into().unwrap();
    last.await.unwrap().unwrap();
    assert_eq!(limit.0.door.lock().state.inside, 0);
}

#[tokio::test]
async fn whoever_comes_faster_than_the_pace_is_called_as_time_passes() {
    let limit = ConcurrencyLimit::new("test", &Config { at_once: 1_000, ..Config::default() });
    limit.0.door.lock().state.limit = 1_000.0;
    // All stay inside: nobody who leaves calls the next.
    let line = (0..200).map(|_| limit.enter(|| false));
    let inside: Vec<Permit> = futures_util::future::join_all(line).await.into_iter().collect::<Result<_, _>>().unwrap();
    let door = limit.0.door.lock();
    assert_eq!((door.state.inside, door.state.waiting(), door.has_usher), (200, 0, false));
    drop(door);
    drop(inside);
    assert_eq!(limit.0.door.lock().state.inside, 0);
}

#[tokio::test]
async fn an_usher_that_breaks_off_is_followed_by_another() {
    let limit = ConcurrencyLimit::new("test", &Config::default());
    limit.0.door.lock().has_usher = true;
    drop(Usher { limit: limit.clone(), is_over: false });
    assert!(!limit.0.door.lock().has_usher);
}

#[test]
fn the_pace_grows_only_while_it_is_what_keeps_somebody_in_line() {
    for (at_once, grows) in [(1, false), (100_000, true)] {
        let begin = Instant::now();
        let config = Config { at_once, waiting: 100_000, ..Config::default() };
        let mut door = Door { state: State::new(&config), pace: Pace::new(begin), has_usher: true };
        door.state.limit = door.state.most;
        assert!(door.try_enter(begin));
        let usual = door.pace.per_second();
        let line: Vec<_> = (0..10_000).map(|_| oneshot::channel()).collect();
        let (tickets, _line): (Vec<_>, Vec<_>) = line.into_iter().unzip();
        assert!(tickets.into_iter().all(|ticket| door.state.line_up(ticket, false, begin)));
        for tick in 1..=100 {
            (0..8).for_each(|_| door.pace.learn(Duration::ZERO));
            door.tick(begin + CALL_EVERY * tick);
        }
        assert!(door.state.waiting() > 0);
        assert_eq!(door.pace.per_second() > usual, grows, "{} with {at_once}", door.pace.per_second());
    }
}
