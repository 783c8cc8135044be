"""The content of every file that passes between the launcher and its jobs.

    RunPaths.argv_file              JobRequest
    AttemptPaths.node_ends          RankRecord, one for each rank of the node
    AttemptPaths.node_ends          ExitRecord, one for each rank of the node
    AttemptPaths.start              StartRecord, one line of text
    AttemptPaths.notice             Notice
    AttemptPaths.result_file        AttemptResult
    AttemptPaths.next_file          NextAttempt
    AttemptPaths.metrics            MetricsLine, one for each iteration
    AttemptPaths.timeline           TimelineEvent, one for each phase
    RunPaths.journal_file           JournalEvent, one for each thing that the launcher did
    AttemptPaths.environment        EnvironmentRecord
    AttemptPaths.network_record     NetworkRecord
    AttemptPaths.placement_record   PlacementRecord
    AttemptPaths.checkpoint_choice  CheckpointChoice
    sums/ITERATION.request.json     SumsRequest
    sums/ITERATION.NODE.json        SumsAnswer
    RunPaths.manifest               CheckpointManifest
    RunPaths.set_aside              SetAside
    AttemptPaths.hang_record        NodeHang
    AttemptPaths.telemetry_record   NodeTelemetry
    AttemptPaths.trackers           TrackersRecord
    profiles/STEM.record.json       CaptureRecord
    profiles/STEM.nsys.json         NsysRecord

Times are seconds since the epoch, durations seconds. Readers ignore keys that they do not know: a resumed run executes
the code of its first attempt, and a later launcher may have written its argv.json.
"""
