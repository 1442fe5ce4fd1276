"""One strategy over one tape by the rules of fks.matching."""
