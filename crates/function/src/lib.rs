//! What the three functions share: [`Settings`] from the environment, [`event`]s in, [`web`] requests and [`queue`]
//! messages within their deadline, [`Aws`] for what a function asks of another service, [`run`] around it all.

pub mod aws;
pub mod event;
pub mod queue;
mod run;
mod settings;
pub mod tombstones;
pub mod web;

pub use aws::Aws;
pub use esker_proto::rest::Failure;
pub use event::Event;
pub use run::{Call, Function, Reply, answered, json, run};
pub use settings::Settings;
pub use tonic::service::Routes;
pub use web::Web;
