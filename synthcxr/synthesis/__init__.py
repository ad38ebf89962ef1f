"""What is done with many synthetic pictures at once: export into the forms that others read."""
