"""The families of laws, one object each: all that the code for laws in general knows of them."""
