//! The Kafka contract.
