//! The row about 4 KiB from an operator to a device.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Bench, Stage, as_f64, processor_us, rows};
use crate::{
    Services, Shell,
    bench_row::{Budget, Row},
    fleet::Fleet,
    floor::relay::NAME,
    operator::OperatorTerminal,
    plain_device::{Manner, PlainDevice},
    scenarios::forward::kilobytes_per_second,
};

const MESSAGE: usize = 4096;

/// Of the operator of a forwarded port.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// Messages a second that a round is sized for; faster ones just end sooner.
const SIZED_FOR: u64 = 4_000;

impl Bench {
    pub(super) async fn measure_relay(&self, stage: &Stage) -> anyhow::Result<Vec<Row>> {
        let member = stage.members.last().context("no device")?;
        let device = PlainDevice::connect(&stage.hub.server, &member.token, None, Manner::Counts).await?;
        let mut terminal = stage.operator.open_terminal(&member.id).await?;
        let (mut user_end, mut device_end) = pair(stage.relay).await?;
        let hub_pid = stage.hub.needed_pid()?;
        let messages = SIZED_FOR * self.seconds;
        let (mut speeds, mut times, mut sent) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.rounds {
            sent += messages * MESSAGE as u64;
            let (hub_speed, hub_used) =
                processor_us(hub_pid, through_hub(&mut terminal, &device, messages, sent)).await?;
            let through_floor = through_floor(&mut user_end, &mut device_end, messages);
            let (floor_speed, floor_used) = processor_us(stage.relay_pid, through_floor).await?;
            speeds.push((hub_speed, floor_speed));
            times.push((hub_used / as_f64(messages), floor_used / as_f64(messages)));
        }
        // The device may be gone before the shell is told to end.
        let _ended = terminal.close().await;
        rows([
            Row::compared(
                "processor time of 4 KiB, operator to device, to a bare TCP relay's",
                "µs",
                Budget::AtMost(1.5),
                &times,
            ),
            Row::compared(
                "speed of 4 KiB messages of one pair, to a bare TCP relay's",
                "MB/s",
                Budget::AtLeast(0.8),
                &speeds,
            ),
        ])
    }
}

impl Bench {
    pub(super) async fn measure_forward(&self, stage: &Stage) -> anyhow::Result<Vec<Row>> {
        let services = Services { ports: true, ..Services::none() };
        let name = format!("{}-ports", stage.fleet.name());
        let mut fleet = Fleet::new(&name, stage.hub.server.clone(), Shell::Echo).offering(services);
        let ids = fleet.admit(&stage.operator, 0..1).await?;
        fleet.start(0..1);
        fleet.all_connected(self.target.patience()).await?;
        let device = ids.first().context("no device")?;
        let mut speeds = Vec::new();
        for _ in 0..self.rounds {
            let (server, operator) = (&stage.hub.server, &stage.operator);
            let speed = kilobytes_per_second(server, operator, device, ROUND_TRIP, self.length()).await?;
            // One message of 4 KiB, and the wait for its ack.
            speeds.push((speed, as_f64(MESSAGE) / ROUND_TRIP.as_secs_f64() / 1e3));
        }
        let name = "one stream from a device's port, 100 ms round trip of its operator, to one message in flight";
        rows([Row::compared(name, "kB/s", Budget::AtLeast(10.0), &speeds)])
    }
}

/// Megabytes a second; `total` bytes will have been heard by the device at the end.
async fn through_hub(
    terminal: &mut OperatorTerminal,
    device: &PlainDevice,
    messages: u64,
    total: u64,
) -> anyhow::Result<f64> {
    let body = vec![b'x'; MESSAGE];
    let begun = Instant::now();
    for _ in 0..messages {
        terminal.type_in(&body).await?;
    }
    device.heard(total).await;
    Ok(as_f64(messages) * as_f64(MESSAGE) / begun.elapsed().as_secs_f64() / 1e6)
}

async fn through_floor(user: &mut TcpStream, device: &mut TcpStream, messages: u64) -> anyhow::Result<f64> {
    let body = vec![b'x'; MESSAGE];
    let begun = Instant::now();
    let sending = async {
        for _ in 0..messages {
            user.write_all(&body).await?;
        }
        std::io::Result::Ok(())
    };
    let receiving = async {
        let (mut left, mut buffer) = (messages * MESSAGE as u64, vec![0; 16 * 1024]);
        while left > 0 {
            match device.read(&mut buffer).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => left -= (read as u64).min(left),
            }
        }
        std::io::Result::Ok(())
    };
    tokio::try_join!(sending, receiving).context("the relay has ended")?;
    Ok(as_f64(messages) * as_f64(MESSAGE) / begun.elapsed().as_secs_f64() / 1e6)
}

/// Two ends that the relay has joined.
async fn pair(relay: SocketAddr) -> anyhow::Result<(TcpStream, TcpStream)> {
    let name: [u8; NAME] = rand::random();
    let mut ends = Vec::new();
    for _ in 0..2 {
        let mut end = TcpStream::connect(relay).await.context("cannot reach the relay")?;
        end.set_nodelay(true)?;
        end.write_all(&name).await?;
        ends.push(end);
    }
    ends.pop().zip(ends.pop()).context("two ends")
}
