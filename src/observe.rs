//! Log lines in the form the host reads (hclog JSON on stderr).
