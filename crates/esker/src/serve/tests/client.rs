//! HTTP/1.1 by hand, so that clients can misbehave.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Reply {
    /// Reads one from a connection: as long as its length says, else to the end.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Reply {
        let mut bytes = Vec::new();
        loop {
            if let Some(reply) = Self::parse(&bytes) {
                return reply;
            }
            let mut more = [0; 4096];
            match stream.read(&mut more).await {
                Ok(n) if n > 0 => bytes.extend_from_slice(&more[..n]),
                end => panic!("{end:?} after {}", String::from_utf8_lossy(&bytes)),
            }
        }
    }

    fn parse(bytes: &[u8]) -> Option<Reply> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let head = head.to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = match length {
            Some(length) => body.get(..length.parse().ok()?)?.to_owned(),
            None => unchunked(body)?,
        };
        Some(Reply { status, head, body })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

fn unchunked(mut body: &str) -> Option<String> {
    let mut out = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(out);
        }
        out.push_str(rest.get(..length)?);
        body = rest.get(length + 2..)?;
    }
}

/// Sends a head and a body, and reads the reply.
pub async fn request(address: SocketAddr, head: &str, body: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!(
        "{head}host: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    Reply::read(&mut stream).await
}

pub async fn get(address: SocketAddr, path: &str) -> Reply {
    request(address, &format!("GET {path} HTTP/1.1\r\n"), "").await
}

pub async fn post(address: SocketAddr, path: &str, body: &str) -> Reply {
    request(address, &format!("POST {path} HTTP/1.1\r\n"), body).await
}
