//! What leaves the agent: events for other systems. Nothing here decides or stores anything.

pub mod event;
