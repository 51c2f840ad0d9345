"""All errors of the node, as one tree.

DicomnodeError
  Transient            the same input may succeed later: it runs again with back-off
    PeerUnavailable    a peer did not answer, or cut the line
    SpoolFull          the free space of the spool is below its watermark
    SpoolFileMissing   a received file is not where its row says
    QueueFull          too many studies wait for their analysis already
    Paused             an operator has paused what was asked for
    DecoderUnavailable the process that decodes pixels did not start, or was killed
  Permanent            the same input will never succeed: dead letter at once
    UnreadableObject   bytes that are no DICOM data set, or contradict their command
    UnreadableImage    pixels that cannot be decoded
    UnsuitableInput    an image that a bundle is not made for (not applicable)
    BundleError        a model bundle that must not be trusted
    InstancesPurged    a late image belongs to a study whose files retention has removed
    PeerRefused        a peer answered and said no
      NothingAccepted  a peer takes nothing of what we have
    LifecycleError     a step that the state machine does not know
  ConfigError          the operator must change a setting
"""


class DicomnodeError(Exception):
    """Base of every error that the node raises on purpose."""


class Transient(DicomnodeError):
    """The same input may succeed later."""


class Permanent(DicomnodeError):
    """The same input will not succeed however often it is tried."""


class ConfigError(DicomnodeError):
    """A setting, a file of settings or an installation that the operator must change."""


class PeerUnavailable(Transient):
    """A peer did not answer, or the association was lost."""


class SpoolFull(Transient):
    """The free space of the spool's file system is below the watermark."""


class SpoolFileMissing(Transient):
    """A received file is not where its row says."""


class QueueFull(Transient):
    """Too many studies wait for their analysis to take new ones."""


class Paused(Transient):
    """An operator has paused what was asked for."""


class DecoderUnavailable(Transient):
    """The decoding process did not start, or something outside the node ended it."""


class DatabaseUnavailable(Transient):
    """The database did not answer."""


class UnreadableObject(Permanent):
    """Bytes that are not the complete DICOM data set that their command promised."""


class UnreadableImage(Permanent):
    """Pixel data that cannot be decoded."""


class UnsuitableInput(Permanent):
    """An image that a bundle is not made for; recorded as *not applicable*, never as a negative."""


class BundleError(Permanent):
    """A model bundle that is incomplete, changed or does not reproduce its reference cases."""


class InstancesPurged(Permanent):
    """A late image arrived for a study whose files were removed by retention."""


class PeerRefused(Permanent):
    """A peer answered and refused."""


class NothingAccepted(PeerRefused):
    """A peer accepts no SOP Class and transfer syntax of what was proposed."""


class LifecycleError(Permanent):
    """A transition that the state machine does not have."""
