"""How well answers find what is there. It knows answers and their truth, and no model, job or file."""
