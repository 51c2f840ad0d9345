"""The commented settings file that `dicomnode init` writes; a test loads it and compares it with the defaults."""

TEMPLATE = """\
# Settings of this dicomnode. Every key that is commented out shows its default.
# An environment variable goes before the file: DICOMNODE_RECEIVER__PORT=11113

[node]
# ae_title = "DICOMNODE"            # our AE title, at most 16 characters
# data_dir = "dicomnode-data"       # spool and, by default, the database; relative to this file
# station_name = "DICOMNODE"
# serial_number = "1"               # one per installation, written into the results

[database]
# url = ""                          # empty: SQLite in data_dir. postgresql://user@host/name for several hosts
# keep_workflows_days = 30.0        # then the engine forgets finished work; studies, results and audit stay

[receiver]
# host = "0.0.0.0"
# port = 11112
# max_associations = 100
# min_free_bytes = 1073741824       # with less free space C-STORE answers 0xA700 (out of resources)
# max_queued_studies = 100000       # with so many in the queue new studies are answered 0xA700
# accept_unknown_peers = false

[study]
# quiet_period_s = 30.0             # a study without a new instance for so long is complete

[models]
# directories = []                  # folders with bundles of your own
# active = ["chest_xray_pneumonia", "chest_xray_anomaly"]

[analysis]
# backend = "auto"                  # the fastest way to run a network whose results do not differ; or "eager"
# explanations = "suspected"        # keep a map of where a finding comes from: "suspected", "all" or "none"

[results]
# when_unusual = "show"             # class findings of an image unlike the training images: "show" says so beside them,
                                    # "lower" also keeps them from raising the urgency, "suppress" withholds them

[drift]
# interval_s = 3600.0               # how often the scores of each source are compared with the bundle's reference
# window_images = 500               # the last so many images
# minimum_images = 200              # fewer have no population stability index: chance alone would exceed the limits
# watch_psi = 0.1
# alarm_psi = 0.25

[delivery]
# first_retry_s = 5.0
# max_retry_s = 600.0
# give_up_after_days = 7.0
# circuit_failures = 3              # so many in a row, and a destination is only probed (C-ECHO) until it answers
# longest_probe_s = 60.0            # so often at least
# objects_an_association = 50
# commitment_timeout_s = 300.0      # without an answer storage commitment is asked for again

[retention]                         # files go only when the results of their study are delivered; rows stay
# keep_days = 30.0
# keep_evidence_days = 365.0
# target_free_bytes = 2147483648    # with less free space the oldest delivered studies go before their time
# quarantine_days = 90.0

[log]
# level = "INFO"
# json = false

# One table for each modality, PACS or workstation. The name after the dot is yours.

# [peers.xray1]
# ae_title = "XRAY1"                # who may store studies here
# sends = true
# addresses = ["10.1.2.0/24"]       # only from these networks; leave out for any
# quiet_period_s = 60.0             # instead of study.quiet_period_s
# study_root = true                 # with host and port: asked by C-FIND whether a study is complete

# [peers.pacs]
# ae_title = "PACS"                 # where results go
# host = "10.1.0.5"
# port = 104
# destination = true
# summary = true                    # the AI summary picture too, for viewers that show no SR
# commitment = true                 # it answers Storage Commitment; "delivered" then means committed

# [peers.archive]
# ae_title = "ARCHIVE"              # results go there by STOW-RS
# stow_url = "https://archive.example/dicom-web"
# stow_token_file = "archive.token" # the bearer token stands in this file
# destination = true

# Without routes each peer that is marked as a destination gets the results of every study. With routes each one that
# matches counts; every key but destinations is optional, and every one that is there must match.

# [[routes]]
# destinations = ["pacs", "archive"]
# [[routes]]
# source_ae_title = ["XRAY1", "XRAY2"]
# modality = ["CR", "DX"]
# finding = ["Pneumonia"]           # suspected
# priority = "urgent"               # at least
# destinations = ["pacs"]
"""
