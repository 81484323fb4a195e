"""A prepared split as training and evaluation read it: arrays, card, augmentation, batches on the device."""
