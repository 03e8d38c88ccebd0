"""`miras scale`: programs of the real trainer, compiled for TPUs that are not there."""
