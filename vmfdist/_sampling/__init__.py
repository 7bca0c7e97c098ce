"""From noise to cosines, and from cosines to the sphere."""
