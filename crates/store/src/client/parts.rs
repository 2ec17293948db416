//! Uploads in parts that outlive the process which began them: each part is sent and named by itself.

use bytes::Bytes;
use esker_format::{Error, Kind, Result};
use object_store::PutPayload;
use object_store::multipart::{MultipartStore, PartId};

use super::{Client, Failure, failed};
use crate::meter::{Meter, Method};

impl Client {
    /// Whether uploads can be resumed here by another process: in buckets, not in directories.
    pub fn keeps_parts(&self) -> bool {
        self.backend.parts.is_some()
    }

    /// Begins an upload: the id under which its parts are sent.
    ///
    /// # Errors
    /// Unavailable where uploads cannot be resumed; those of the store.
    pub async fn begin_parts(&self, meter: &Meter, key: &str) -> Result<String> {
        let parts = self.parts(key)?;
        let once = || async {
            let path = self.path(key)?;
            let ticket = meter.start(Method::Put, key, None, 0);
            let begun = self.in_time(0, parts.create_multipart(&path)).await;
            ticket.finish(0);
            begun
        };
        self.retrying(once).await.map_err(|e| failed("PUT", key, e))
    }

    /// Sends part number `index`, from 0; sent again, it replaces what was sent before. What names it at the end.
    ///
    /// # Errors
    /// Those of the store; NotFound if the upload is over.
    pub async fn put_part(
        &self,
        meter: &Meter,
        key: &str,
        upload: &String,
        index: usize,
        bytes: Bytes,
    ) -> Result<String> {
        let parts = self.parts(key)?;
        let length = bytes.len() as u64;
        let once = || async {
            let (path, payload) = (self.path(key)?, PutPayload::from_bytes(bytes.clone()));
            let ticket = meter.start(Method::Put, key, None, length);
            let sent = self.in_time(length, parts.put_part(&path, upload, index, payload)).await;
            ticket.finish(0);
            sent
        };
        let sent = self.retrying(once).await.map_err(|e| failed("PUT", key, e))?;
        Ok(sent.content_id)
    }

    /// Makes the object of `length` bytes of all parts, in order. Done twice, it is done.
    ///
    /// # Errors
    /// NotFound if the upload is over or a part was sent anew since; those of the store.
    pub async fn complete_parts(
        &self,
        meter: &Meter,
        key: &str,
        upload: &String,
        parts: Vec<String>,
        length: u64,
    ) -> Result<()> {
        let store = self.parts(key)?;
        let ids: Vec<PartId> = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        let once = || async {
            let path = self.path(key)?;
            let ticket = meter.start(Method::Put, key, None, 0);
            // Assembling takes the store time that grows with the object.
            let done = self.in_time(length / 8, store.complete_multipart(&path, upload, ids.clone())).await;
            ticket.finish(0);
            done
        };
        let Err(e) = self.retrying(once).await else { return Ok(()) };
        // Who completed it before, or this call's own try whose answer was lost, ended the upload.
        match self.suffix(meter, key, 1).await {
            Ok((_, size)) if size == length => Ok(()),
            _ => Err(failed("PUT", key, e)),
        }
    }

    /// Gives an upload up. One that is over stays as it is.
    ///
    /// # Errors
    /// Those of the store, for what it still has: a lifecycle rule for incomplete uploads removes it.
    pub async fn abort_parts(&self, meter: &Meter, key: &str, upload: &String) -> Result<()> {
        let parts = self.parts(key)?;
        let path = self.path(key).map_err(|e| failed("DELETE", key, e))?;
        let ticket = meter.start(Method::Delete, key, None, 0);
        let done = self.in_time(0, parts.abort_multipart(&path, upload)).await;
        ticket.finish(0);
        match done {
            Err(Failure::Store(object_store::Error::NotFound { .. })) | Ok(()) => Ok(()),
            Err(e) => Err(failed("DELETE", key, e)),
        }
    }

    fn parts(&self, key: &str) -> Result<&dyn MultipartStore> {
        let none =
            || Error::new(Kind::Unavailable, format!("PUT {key}: this store keeps no parts of uploads"));
        self.backend.parts.as_deref().ok_or_else(none)
    }
}
