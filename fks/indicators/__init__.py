"""Array maths behind one typed registry: columns in, columns out, no state."""
