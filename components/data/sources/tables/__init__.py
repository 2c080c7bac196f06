"""Tables of image paths and labels in the folder of the images."""
