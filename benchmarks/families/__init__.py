"""One module for each family of figures; `measure(lab)` fills the lab's notebook."""
