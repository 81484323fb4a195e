"""From a trained student to the file that ships: export, integers, and the gate that judges them.

The stages export, distill_int8, quantize and benchmark enter. It knows evaluation, models, data and what stands below.
"""
