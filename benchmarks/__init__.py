"""Speed, measured in pairs within one run and reported as ratios; never asserted by tests."""
