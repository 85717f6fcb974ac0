"""dumpvault: seal Linux crash dumps as they are read, open them under policy, prove their custody."""

__version__ = "0.1.0"
