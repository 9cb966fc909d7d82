//! Reusable timely operators.
