"""Many trainings: the table of pairs x methods x seeds on one machine or many, and what cannot work, said before it."""
