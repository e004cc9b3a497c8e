//! Rows with many idle connections on both sides: what they take, and how fast keys are among them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::{Bench, Stage, as_f64, rows};
use crate::{
    Server,
    bench_row::{Budget, Row},
    comparison::Side,
    connection::lean_socket,
    crew::{Crew, CrewPlan},
    latency::{Latency, LatencyReport},
    operator::Operator,
    part::Order,
    plain_device::{Manner, PlainDevice},
    process::{self, Memory},
    server::{Socket, source_of},
    typing::Typing,
};

/// Terminals that are typed in, and how often a key is typed in each.
const TERMINALS: usize = 20;
const KEY_EVERY: Duration = Duration::from_millis(20);

/// Idle sockets of the floor that are opened at the same time.
const OPENED_AT_ONCE: usize = 64;

/// How long a server's memory may take to settle.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);

impl Bench {
    pub(super) async fn measure_idle(&self, stage: &Stage) -> anyhow::Result<Vec<Row>> {
        let (hub_pid, floor_pid) = (stage.hub.needed_pid()?, stage.websocket.needed_pid()?);
        eprintln!("connecting {} idle devices to the hub, and as many websockets to the floor …", self.idle);
        let devices = self.idle_devices(&stage.hub, &stage.operator, stage.fleet.name()).await?;
        let warm = open_idle(&stage.websocket.server, self.warm_up()).await?;
        let floor_before = process::settled_memory(floor_pid, SETTLE_LIMIT).await?;
        let idle = open_idle(&stage.websocket.server, self.idle).await?;
        let floor_after = process::settled_memory(floor_pid, SETTLE_LIMIT).await?;
        let (hub_memory, floor_memory) = (devices.kilobytes_each, self.kilobytes_each(floor_before, floor_after));

        let mut found = vec![
            Row::alone(
                "user memory of an idle device, all of the hub running",
                "kB",
                Budget::AtMost(4.0),
                &[hub_memory],
            ),
            Row::compared(
                "the same, to a bare websocket with the smallest buffers",
                "kB",
                Budget::Shown,
                &[(hub_memory, floor_memory)],
            ),
        ];
        found.extend(self.keys(stage).await?);
        found.push(self.idle_time(hub_pid, floor_pid).await?);
        devices.ensure_nobody_is_lost()?;
        drop((idle, warm));
        rows(found)
    }

    pub(super) async fn measure_tls(&self, stage: &Stage) -> anyhow::Result<Vec<Row>> {
        let Some((hub, operator)) = &stage.tls else { return Ok(Vec::new()) };
        eprintln!("connecting {} idle devices by TLS …", self.idle);
        let devices = self.idle_devices(hub, operator, stage.fleet.name()).await?;
        devices.ensure_nobody_is_lost()?;
        let name = "user memory of an idle device behind TLS, all of the hub running";
        rows([Row::alone(name, "kB", Budget::AtMost(14.0), &[devices.kilobytes_each])])
    }

    /// Connects devices that stay idle, in processes of their own, and looks at the hub's memory before and after.
    async fn idle_devices(&self, hub: &Side, operator: &Operator, fleet: &str) -> anyhow::Result<IdleDevices> {
        let pid = hub.needed_pid()?;
        let plan = CrewPlan {
            servers: vec![hub.server.url("")],
            fleet: format!("{fleet}-idle"),
            first: 0,
            devices: self.idle,
            processes: 1,
            entering: 64,
            yields: false,
        };
        let mut crew = Crew::start(&plan).await?;
        let fleet = crate::fleet::Fleet::new(&plan.fleet, hub.server.clone(), crate::Shell::Echo);
        let warm_up = self.warm_up();
        fleet.admit(operator, 0..self.idle + warm_up).await?;
        let mut warm_crew = Crew::start(&CrewPlan { first: self.idle, devices: warm_up, ..plan }).await?;
        warm_crew.order(Order::Start).await?;
        warm_crew.wait_until("connected", self.target.patience(), |told| told.connected >= warm_up).await?;
        let before = process::settled_memory(pid, SETTLE_LIMIT).await?;
        crew.order(Order::Start).await?;
        crew.wait_until("connected", self.target.patience(), |told| told.connected >= self.idle).await?;
        let after = process::settled_memory(pid, SETTLE_LIMIT).await?;
        Ok(IdleDevices { kilobytes_each: self.kilobytes_each(before, after), crew, _warm_crew: warm_crew })
    }

    /// What every server needs once is not to count: so many come before the first look.
    fn warm_up(&self) -> usize {
        (self.idle / 10).max(1)
    }

    fn kilobytes_each(&self, before: Memory, after: Memory) -> f64 {
        as_f64(after.resident_bytes.saturating_sub(before.resident_bytes)) / as_f64(self.idle) / 1e3
    }

    /// Both at the same time: nothing of one is in the other's way.
    async fn idle_time(&self, hub: u32, floor: u32) -> anyhow::Result<Option<Row>> {
        eprintln!("looking at them idle …");
        let length = Duration::from_secs(self.idle_seconds);
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let before = (process::scheduled_time(hub)?, process::scheduled_time(floor)?);
            tokio::time::sleep(length).await;
            let after = (process::scheduled_time(hub)?, process::scheduled_time(floor)?);
            let each = |before: Duration, after: Duration| {
                (after.saturating_sub(before)).as_secs_f64() * 1e6 / as_f64(self.idle) / length.as_secs_f64()
            };
            rounds.push((each(before.0, after.0), each(before.1, after.1)));
        }
        let name = "processor time of an idle device in a second, pings included, to a bare websocket's";
        Ok(Row::compared(name, "µs", Budget::AtMost(1.5), &rounds))
    }

    async fn keys(&self, stage: &Stage) -> anyhow::Result<[Option<Row>; 3]> {
        eprintln!("typing among them …");
        let (hub_pid, floor_pid) = (stage.hub.needed_pid()?, stage.websocket.needed_pid()?);
        let typists = &stage.members[stage.members.len() - TERMINALS..];
        let mut devices = Vec::new();
        for member in typists {
            devices.push(PlainDevice::connect(&stage.hub.server, &member.token, None, Manner::Echoes).await?);
        }
        let ids: Vec<String> = typists.iter().map(|member| member.id.clone()).collect();
        let (mut times, mut middles, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let typing = Typing::start(std::slice::from_ref(&stage.operator), &ids, KEY_EVERY).await?;
            let (hub_time, hub) = typed(hub_pid, self.length(), typing.typed(), || typing.measured()).await?;
            typing.finish().await?;
            let pairs = Pairs::start(&stage.websocket.server).await?;
            let (floor_time, floor) = typed(floor_pid, self.length(), pairs.typed.clone(), || pairs.measured()).await?;
            times.push((hub_time, floor_time));
            middles.push((as_f64(hub.percentiles.p50_us), as_f64(floor.percentiles.p50_us)));
            ends.push((as_f64(hub.percentiles.p99_us), as_f64(floor.percentiles.p99_us)));
        }
        let name = |what: &str| format!("{what}, {} idle connected, to a bare websocket relay's", self.idle);
        Ok([
            Row::compared(&name("processor time of a key and its echo"), "µs", Budget::AtMost(1.5), &times),
            Row::compared(&name("key and its echo, p50"), "µs", Budget::Shown, &middles),
            Row::compared(&name("key and its echo, p99"), "µs", Budget::Shown, &ends),
        ])
    }
}

/// Processor time of a process for each key in so long, and how long the keys took.
async fn typed(
    pid: u32,
    length: Duration,
    keys: Arc<AtomicU64>,
    measured: impl Fn() -> Option<LatencyReport>,
) -> anyhow::Result<(f64, LatencyReport)> {
    // What came before is not of this round.
    let _opening = measured();
    let (before, typed) = (process::scheduled_time(pid)?, keys.load(Relaxed));
    tokio::time::sleep(length).await;
    let (used, typed) = (process::scheduled_time(pid)?.saturating_sub(before), keys.load(Relaxed) - typed);
    let report = measured().context("no key came back")?;
    Ok((used.as_secs_f64() * 1e6 / as_f64(typed).max(1.0), report))
}

/// Websockets that say nothing; the library answers pings.
async fn open_idle(server: &Server, count: usize) -> anyhow::Result<Vec<Task>> {
    let opening = (0..count).map(async |number| {
        let source = source_of(number, server.address());
        let mut socket = server.open_socket("/echo", "", source, lean_socket()).await?;
        anyhow::Ok(Task(tokio::spawn(async move { while socket.next().await.is_some() {} })))
    });
    stream::iter(opening).buffer_unordered(OPENED_AT_ONCE).try_collect().await
}

/// Devices of a hub that are connected and say nothing.
struct IdleDevices {
    /// What each takes of the hub's memory.
    kilobytes_each: f64,
    crew: Crew,
    _warm_crew: Crew,
}

impl IdleDevices {
    fn ensure_nobody_is_lost(&self) -> anyhow::Result<()> {
        let losses = self.crew.told().losses;
        ensure!(losses == 0, "{losses} idle devices were lost meanwhile");
        Ok(())
    }
}

/// Ends with its handle.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keys through the floor, paced and counted as [`Typing`] does those through the hub.
struct Pairs {
    typed: Arc<AtomicU64>,
    echo: tokio::sync::watch::Sender<Arc<Latency>>,
    _tasks: Vec<Task>,
}

impl Pairs {
    async fn start(server: &Server) -> anyhow::Result<Self> {
        let (typed, echo) = (Arc::<AtomicU64>::default(), tokio::sync::watch::Sender::new(Arc::<Latency>::default()));
        let mut tasks = Vec::new();
        for _ in 0..TERMINALS {
            let path = format!("/pair/{:016x}", rand::random::<u64>());
            let device = server.open_socket(&path, "", None, lean_socket()).await?;
            let user = server.open_socket(&path, "", None, lean_socket()).await?;
            tasks.push(Task(tokio::spawn(send_back(device))));
            tasks.push(Task(tokio::spawn(type_keys(user, typed.clone(), echo.subscribe()))));
        }
        Ok(Self { typed, echo, _tasks: tasks })
    }

    fn measured(&self) -> Option<LatencyReport> {
        self.echo.send_replace(Arc::default()).report()
    }
}

async fn send_back(mut device: Socket) {
    while let Some(Ok(frame)) = device.next().await {
        if matches!(frame, Frame::Binary(_)) && device.send(frame).await.is_err() {
            return;
        }
    }
}

async fn type_keys(mut user: Socket, typed: Arc<AtomicU64>, echo: tokio::sync::watch::Receiver<Arc<Latency>>) {
    let first = Instant::now() + KEY_EVERY.mul_f64(rand::random());
    let mut due = tokio::time::interval_at(first.into(), KEY_EVERY);
    let mut owed = std::collections::VecDeque::new();
    // As large as a key is on its way through a hub, header and all.
    let key = bytes::Bytes::from_static(&[b'k'; 96]);
    loop {
        tokio::select! {
            due = due.tick() => {
                owed.push_back(due.into_std());
                if user.send(Frame::Binary(key.clone())).await.is_err() {
                    return;
                }
            }
            heard = user.next() => match heard {
                Some(Ok(Frame::Binary(_))) => {
                    let Some(due) = owed.pop_front() else { return };
                    echo.borrow().record(due.elapsed());
                    typed.fetch_add(1, Relaxed);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}
