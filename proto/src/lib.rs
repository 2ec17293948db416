//! Protocol buffers of the record and the services.
