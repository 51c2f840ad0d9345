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
# accept_unknown_peers = false

[study]
# quiet_period_s = 30.0             # a study without a new instance for so long is complete

[models]
# directories = []                  # folders with bundles of your own
# active = ["chest_xray_pneumonia", "chest_xray_anomaly"]

[delivery]
# first_retry_s = 5.0
# max_retry_s = 600.0
# give_up_after_days = 7.0

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
"""
