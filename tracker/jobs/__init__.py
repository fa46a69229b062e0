"""Control's background work, each job under a lease that a hung holder loses."""
