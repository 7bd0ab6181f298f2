//! The log over disks that fail, lose power, or rot.
