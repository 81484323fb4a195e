"""What the teacher says of the training images, kept on disk for all students.

The stages teach and distill enter, and rehearsals. It knows distillation, models, data and what stands below.
"""
