//! Databases that hang, break, crawl and lie, clients that leave, and what must hold all the same.

mod hangs;
mod restored;
