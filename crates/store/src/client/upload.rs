//! Uploads of immutable objects too large for one put.

use std::collections::VecDeque;
use std::fs::File;

use bytes::Bytes;
use esker_format::Result;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, UploadPart};

use super::{Client, Failure, failed};
use crate::meter::{Meter, Method};

/// Up to this size an object is one put.
const ONE_PUT: u64 = 16 << 20;
/// Every part but the last has this size: some stores insist that parts be equal.
const PART: u64 = 8 << 20;
/// Parts of one upload in flight, which bounds its memory.
const PARTS_IN_FLIGHT: usize = 4;

impl Client {
    /// Puts an immutable object, in parts above 16 MiB. Its name holds its maker's token, so the same content may
    /// be put again: retried.
    pub async fn put_immutable(&self, meter: &Meter, key: &str, bytes: Bytes) -> Result<()> {
        if bytes.len() as u64 <= ONE_PUT {
            return self.overwrite(meter, key, bytes).await;
        }
        self.retrying(|| async {
            let mut upload = self.upload(meter, key);
            let done = async {
                upload.push(bytes.clone()).await?;
                upload.complete().await
            }
            .await;
            upload.settle(done).await
        })
        .await
        .map_err(|e| failed("PUT", key, e))
    }

    /// Starts the upload of an immutable object whose bytes come piece by piece. Memory stays below 50 MiB.
    pub fn upload(&self, meter: &Meter, key: &str) -> Upload {
        Upload {
            client: self.clone(),
            meter: meter.clone(),
            key: key.to_owned(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            length: 0,
            parts: None,
            sending: FuturesUnordered::new(),
        }
    }
}

/// An upload under way. Nothing is visible before [`Upload::finish`]; dropped before it, S3 keeps the parts until a
/// lifecycle rule for incomplete uploads removes them.
pub struct Upload {
    client: Client,
    meter: Meter,
    key: String,
    waiting: VecDeque<Bytes>,
    waiting_bytes: u64,
    length: u64,
    parts: Option<Box<dyn MultipartUpload>>,
    sending: FuturesUnordered<BoxFuture<'static, Result<(), Failure>>>,
}

impl Upload {
    /// Appends bytes; waits while enough parts are in flight.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let pushed = self.push(bytes).await;
        self.settle(pushed).await.map_err(|e| failed("PUT", &self.key, e))
    }

    /// Completes the object and returns its length.
    pub async fn finish(mut self) -> Result<u64> {
        let completed = self.complete().await;
        self.settle(completed).await.map_err(|e| failed("PUT", &self.key, e))?;
        Ok(self.length)
    }

    /// Makes a whole file the object instead, where the store is a directory of the file system in which the file lies without a
    /// name: nothing is copied. Its length; `None` where its bytes are to be written. Nothing may write to the file any more.
    pub async fn adopt(&mut self, file: File) -> Result<Option<u64>> {
        self.adopted(file).await.map_err(|e| failed("PUT", &self.key, e))
    }

    async fn adopted(&mut self, file: File) -> Result<Option<u64>, Failure> {
        let Some(directory) = &self.client.backend.directory else { return Ok(None) };
        let Ok(length) = file.metadata().map(|file| file.len()) else { return Ok(None) };
        let adopted = directory.adopt(&self.client.path(&self.key)?, file).await.map_err(Failure::Store)?;
        let Some(adopted) = adopted else { return Ok(None) };
        let ticket = self.meter.start(Method::Put, &self.key, None, length);
        let published = self.client.in_time(length, adopted.publish()).await;
        ticket.finish(0);
        published.map(|_| Some(length))
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// On failure tells the store to forget the parts; that may fail too and then costs only space.
    async fn settle(&mut self, done: Result<(), Failure>) -> Result<(), Failure> {
        if done.is_err()
            && let Some(mut parts) = self.parts.take()
        {
            self.sending = FuturesUnordered::new();
            let _ = self.client.in_time(0, parts.abort()).await;
        }
        done
    }

    async fn push(&mut self, bytes: Bytes) -> Result<(), Failure> {
        self.length += bytes.len() as u64;
        self.waiting_bytes += bytes.len() as u64;
        self.waiting.push_back(bytes);
        if self.length <= ONE_PUT {
            return Ok(());
        }
        while self.waiting_bytes > PART {
            self.send(PART).await?;
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), Failure> {
        if self.length <= ONE_PUT {
            let bytes = self.take(self.waiting_bytes).into_iter().flatten().collect::<Bytes>();
            let mode = object_store::PutMode::Overwrite;
            let client = &self.client;
            return client
                .retrying(|| client.put_once(&self.meter, &self.key, bytes.clone(), mode.clone()))
                .await;
        }
        if self.waiting_bytes > 0 {
            self.send(self.waiting_bytes).await?;
        }
        while let Some(sent) = self.sending.next().await {
            sent?;
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let ticket = self.meter.start(Method::Put, &self.key, None, 0);
        // Assembling takes the store time that grows with the object.
        let completed = self.client.in_time(self.length / 8, parts.complete()).await;
        ticket.finish(0);
        completed?;
        self.parts = None;
        Ok(())
    }

    async fn send(&mut self, length: u64) -> Result<(), Failure> {
        while self.sending.len() >= PARTS_IN_FLIGHT {
            self.sending.next().await.transpose()?;
        }
        let payload: PutPayload = self.take(length).into_iter().collect();
        if self.parts.is_none() {
            let path = self.client.path(&self.key)?;
            let ticket = self.meter.start(Method::Put, &self.key, None, 0);
            let parts = self.client.in_time(0, self.client.backend.objects.put_multipart(&path)).await;
            ticket.finish(0);
            self.parts = Some(parts?);
        }
        if let Some(parts) = &mut self.parts {
            let sent = counted(&self.client, &self.meter, &self.key, length, parts.put_part(payload));
            self.sending.push(sent);
        }
        Ok(())
    }

    /// The first `length` waiting bytes.
    fn take(&mut self, length: u64) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut wanted = length;
        self.waiting_bytes -= length;
        while wanted > 0 {
            let Some(mut chunk) = self.waiting.pop_front() else { break };
            if chunk.len() as u64 > wanted {
                let rest = chunk.split_off(wanted as usize);
                self.waiting.push_front(rest);
            }
            wanted -= chunk.len() as u64;
            taken.push(chunk);
        }
        taken
    }
}

/// One part, counted from when it is first polled.
fn counted(
    client: &Client,
    meter: &Meter,
    key: &str,
    length: u64,
    part: UploadPart,
) -> BoxFuture<'static, Result<(), Failure>> {
    let (client, meter, key) = (client.clone(), meter.clone(), key.to_owned());
    async move {
        let ticket = meter.start(Method::Put, &key, None, length);
        let sent = client.in_time(length, part).await;
        ticket.finish(0);
        sent
    }
    .boxed()
}
