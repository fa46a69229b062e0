"""What people manage and look at: programs, partners, links, coupons, credentials; clicks and conversions as records."""
