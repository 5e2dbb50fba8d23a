//! Databases that hang, break, crawl and lie, clients that leave, and what must hold all the same.

mod campaigns;
mod hangs;
mod load;
mod restored;
mod world;
