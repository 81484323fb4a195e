"""A prepared split as training and evaluation read it: arrays, card, augmentation, batches on the device.

Every room that sees an image enters. It knows devices, settings and system.
"""
