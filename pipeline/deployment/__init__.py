"""From a trained student to the file that ships: export, integers, and the gate that judges them."""
