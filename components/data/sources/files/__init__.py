"""Files of a folder or an archive: their listing, their kinds, and access to them."""
