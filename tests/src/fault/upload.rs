//! Multipart uploads of the fault store: nothing is visible before `complete`.

use super::{CallKind, FaultStore, Mode};
use crate::world::Effect;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use object_store::path::Path;
use object_store::{Attributes, Error, MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

type Parts = Arc<Mutex<BTreeMap<usize, Bytes>>>;

#[derive(Debug)]
pub(super) struct Upload {
    store: FaultStore,
    location: Path,
    attributes: Attributes,
    parts: Parts,
    sent: usize,
}

impl Upload {
    pub(super) async fn start(
        store: FaultStore,
        location: Path,
        attributes: Attributes,
    ) -> Result<Box<dyn MultipartUpload>> {
        store.read(CallKind::UploadStart, location.as_ref(), String::new(), |_, _| Ok(((), 0))).await?;
        Ok(Box::new(Self { store, location, attributes, parts: Parts::default(), sent: 0 }))
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, location, parts) = (self.store.clone(), self.location.clone(), self.parts.clone());
        let number = self.sent;
        self.sent += 1;
        async move {
            let body = Bytes::from(data);
            let options = format!("part={number} size={}", body.len());
            store
                .call(CallKind::UploadPart, location.as_ref(), options, |_, ticket| {
                    // A part is invisible, so one that arrives late or unheard differs only in being there.
                    if !matches!(ticket.mode, Mode::FailBefore | Mode::Throttle) {
                        parts.lock().unwrap_or_else(PoisonError::into_inner).insert(number, body);
                    }
                    super::unheard(ticket.mode).map_or(Ok(((), 0)), Err)
                })
                .await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if parts.len() != self.sent {
            let source = format!("{} of {} parts arrived", parts.len(), self.sent).into();
            return Err(Error::Generic { store: "fault", source });
        }
        let body = Bytes::from(parts.into_values().collect::<Vec<_>>().concat());
        let options = format!("parts={} size={}", self.sent, body.len());
        let (location, attributes) = (self.location.clone(), self.attributes.clone());
        let effect = Effect::Put { location, body, attributes, mode: PutMode::Overwrite };
        self.store.write(CallKind::UploadComplete, options, effect).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.store
            .read(CallKind::UploadAbort, self.location.as_ref(), String::new(), |_, _| Ok(((), 0)))
            .await
    }
}
