//! Proof that both sides are equal.
