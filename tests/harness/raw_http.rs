//! Requests written byte by byte, for what no well-behaved client would send.

use std::net::SocketAddr;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::Answer;
use crate::wait::{LIMIT, within};

/// Writes `request` as it is and reads one answer: the head, and a body if the head announces its length.
///
/// # Panics
/// When no answer comes.
pub async fn raw_request(address: SocketAddr, request: &[u8]) -> Answer {
    within(LIMIT, "an answer to a raw request", exchange(address, request)).await
}

async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("the hub listens");
    // A hub that has read enough answers and closes; what it did not read is no concern of ours.
    let _ = stream.write_all(request).await;
    let mut read = Vec::new();
    let head_end = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        let count = stream.read_buf(&mut read).await.unwrap_or(0);
        assert!(count > 0, "the connection ended before an answer: {:?}", String::from_utf8_lossy(&read));
    };
    let head = String::from_utf8_lossy(&read[..head_end]).into_owned();
    let (status, headers) = parse_head(&head);
    let length = headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    let mut body = read.split_off(head_end + 4);
    while body.len() < length && stream.read_buf(&mut body).await.unwrap_or(0) > 0 {}
    body.truncate(length);
    let asked = String::from_utf8_lossy(request).lines().next().unwrap_or_default().to_owned();
    Answer::new(asked, status, headers, Bytes::from(body))
}

fn parse_head(head: &str) -> (u16, HeaderMap) {
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a header name");
            (name, HeaderValue::from_str(value.trim()).expect("a header value"))
        })
        .collect();
    (status, headers)
}
