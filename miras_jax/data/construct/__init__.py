"""`miras data construct`: conversations about photographs through a reasoning tree."""
