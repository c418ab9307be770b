//! Revisions per slot and replica, deployment, rollback and their history.
