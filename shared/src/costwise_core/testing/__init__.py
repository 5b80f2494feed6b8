"""What costwise's own tests use, shipped for yours: fakes and contract suites."""
