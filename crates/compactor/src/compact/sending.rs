//! Files on their way to the store while the rest of a segment is made: nothing is true before the manifest says so.

use std::sync::Arc;

use esker_format::{Error, Result};
use esker_store::Upload;
use futures::future::BoxFuture;
use tokio::task::JoinSet;

use super::{blocking, runs_beside};
use crate::scratch::{ScratchFile, broken};

/// Bytes of a scratch file that are handed to an upload at once.
const PART: usize = 1 << 20;

/// An upload under way, if there is one. Dropped, it ends; what it has sent is garbage.
#[derive(Default)]
pub(crate) struct Sending(Option<BoxFuture<'static, Result<u64>>>);

impl Sending {
    /// Begins to upload a file that is written. Where nothing runs beside [`blocking`] work, it waits for [`Sending::sent`].
    pub(super) fn begin(&mut self, upload: Upload, file: &Arc<dyn ScratchFile>) {
        let file = Arc::clone(file);
        let sent = async move { send(upload, &*file, &|_, _| {}).await };
        self.0 = Some(match runs_beside() {
            true => {
                let mut tasks = JoinSet::new();
                tasks.spawn(sent);
                let failed = |e| Error::internal("an upload was not finished").with_source(e);
                Box::pin(async move {
                    match tasks.join_next().await {
                        Some(task) => task.map_err(failed)?,
                        None => Ok(0),
                    }
                })
            }
            false => Box::pin(sent),
        });
    }

    /// Waits for it: its bytes.
    pub(super) async fn sent(self) -> Result<u64> {
        match self.0 {
            Some(upload) => upload.await,
            None => Ok(0),
        }
    }
}

/// Uploads a scratch file, as a whole where the store can take it so, else part by part: its bytes.
pub(super) async fn send(
    mut upload: Upload,
    file: &dyn ScratchFile,
    heard: &(dyn Fn(u64, u64) + Sync),
) -> Result<u64> {
    if let Some(whole) = file.seal()
        && let Some(bytes) = upload.adopt(whole).await?
    {
        return Ok(bytes);
    }
    let (mut at, total) = (0, file.length());
    while at < total {
        heard(at, total);
        let length = PART.min((total - at) as usize);
        upload.write(blocking(|| file.range(at, length)).map_err(broken)?.into()).await?;
        at += length as u64;
    }
    upload.finish().await
}
