"""A plugin for runs that shall find a bug and do not care for its smallest example: shrinking takes a minute, finding a second."""

from hypothesis import Phase, settings

settings.register_profile("no shrinking", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("no shrinking")
