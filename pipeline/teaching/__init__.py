"""What the teacher says of the training images, kept on disk for all students."""
