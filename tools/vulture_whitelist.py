"""Names that vulture takes for unused and that something outside the code, or Python itself, uses."""

_ = object()

# Called by Python, by its import system or by a library.
_.__call__
_.__getattr__
_.address_family
_.close_connection
_.daemon_threads
_.do_HEAD
_.handle_error
_.log_message
_.redirect_request
_.request_queue_size
_.send_error
_.server_version
_.sys_version
_.timeout
_.version_string
_._no_rank_variables_and_no_secrets
_._plain_name
_._slurm_time
_.completer
_.filters
_.find_class
_.persistent_load
_.to_text_provider
_.works_around

# Used in annotations that are texts, as typing_extensions is not imported while a command runs.
_.Self
_.Unpack

# Keys of records that are read by their names.
_.higher_is_better
_.shots
_.source_bytes
_.url_variable

# Methods that Bridge calls: megatron.bridge.training.callbacks.Callback.
_.checkpoint_save
_.eval_end
_.eval_start
_.train_end
_.train_start
_.train_step_end
_.train_step_start

# Methods and fields that NeMo-Run and torchx call: launcher/nemo_run/executor.py.
_.app
_.assign
_.role_name
_.streams
_._cancel_existing
_.describe
_.experiment_dir
_.experiment_id
_.log_iter
_.nnodes
_.nproc_per_node
_.schedule
_._submit_dryrun
_._validate
_.dependency_type
_.get_scheduler_factories

# Attributes that Megatron, Bridge and torch read.
_.attention_backend
_.blend_per_split
_.cuda_graph_impl
_.current_stream
_.default_stream
_.distributed_backend
_.elapsed_time
_.exp_avg_dtype
_.exp_avg_sq_dtype
_.expert_model_parallel_size
_.get_code
_.get_device_capability
_.get_device_properties
_.make_vocab_size_divisible_by
_.master_weight_dtype
_.memory_stats
_.moe_flex_dispatcher_backend
_.moe_shared_expert_overlap
_.num_workers
_.packed_sequence_size
_.perform_initialization
_.persistent_workers
_.recompute_granularity
_.recompute_method
_.recompute_num_layers
_.record_event
_.tensor_model_parallel_size
_.use_cpu_initialization
_.use_decoupled_grad
_.works_around

# Attributes of a configuration that recipes set; functions that a user names.
_.eval_interval
_.global_batch_size
_.hidden_size
_.log_interval
_.log_throughput
_.lr_warmup_iters
_.make_vocab_size_divisible_by
_.micro_batch_size
_.min_lr
_.moe_flex_dispatcher_backend
_.moe_permute_fusion
_.moe_router_fusion
_.moe_shared_expert_overlap
_.position_embedding_type
_.save_interval
_.tensor_model_parallel_size
_.tp_comm_overlap
_.use_distributed_optimizer

# Fields of models.
_.extends
_.resume

# Members of an enumeration that are made from Slurm's words.
_.COMPLETING
_.CONFIGURING
_.POWER_UP_NODE
_.RESIZING
_.SIGNALING
_.STAGE_OUT
_.UPDATE_DB

# Found by name: one module of `launcher image` adds several commands.
_.BUILD_HELP
_.GC_HELP
_.IMPORT_HELP
_.VERIFY_HELP
_.add_build
_.add_gc
_.add_import
_.add_inspect
_.add_list
_.add_verify
_.run_build
_.run_gc
_.run_import
_.run_inspect
_.run_list
_.run_verify

# Read by templates.
_.min_bus_gb_s
_.first_port
_.inside_template

# Keys of records that sbatch.sh writes for people.
_.left_s
_.node_check_log
_.gate_program
_.node_check_program
_.nsys_program
_.watchdog_program
_.removal_template
_.preparation_template
_.srun_template
_.half
_.href
_.folded
_.busy_samples
_.busy_sm_mhz
_.sm_mhz
_.memory_mhz
_.temperature_c
_.memory_temperature_c
_.throttled_samples
_.corrected_errors
_.uncorrected_errors
_.sent_bytes_per_s
_.received_bytes_per_s
_.utilization_percent
_.network_bytes_per_s
_.cpu_s
_.corrected
_.numeric
_.still
_.tone

# Types and keys of contract/records: files are read and written by the names of keys.
_.bus_gb_s
_.MetricsLine
_.TimelineEvent
_.allowed_cpus
_.bound_cpus
_.ended_by_launcher
_.evidence
_.failed_ranks
_.first_failing_rank
_.missing_ranks
_.numa_node
_.op
_.opens
_.owner_job
_.own_sum
_.passed
_.passed_over
_.selected
_.seq
_.verified_bytes
_.verified_files

_.core_commit
_.core_path
_.training_path

# Names of Megatron's own that are replaced or asked for.
_._compile_dependencies
_.evaluate_and_print_results
_.is_distributed
_.train_step

# Fields that are read by name.
_.tflops

# Fields that dataclasses.asdict writes.
_.communication_us
_.model_parameters
_.total_us

# Of a class, read from its dictionary alone.
_.__copied__

# Python calls this by itself.
_.__dir__

# Validators of the schemas of CloudAI's files, called by pydantic.
_._at_least_one
_._base_or_whole
_._has_bridge
_._ids
_._known_agent
_._known_metrics
_._known_reward
_._known_template
_._not_blank
_._not_empty
_._positive
_._prefixes
_._probabilities
_._time_limit
_._valid_agent_config
_._valid_env_params

# Fields of CloudAI's files that are read by their names, or only recognized.
_.bin_name
_.cache_docker_images_locally
_.capture_range
_.capture_range_end
_.container_mount_home
_.cuda_graph_trace
_.data_repository
_.dataset_paths
_.dataset_root
_.dependencies_from_pyproject
_.enable_vboost
_.encoding
_.exclude_post_profiling_steps
_.exclude_start_steps
_.extra_args
_.extra_transient_status_errors
_.first_k_dense_replace
_.force_overwrite
_.git_repo
_.gpu_metrics_devices
_.head_only
_.hf_home_path
_.ideal_perf
_.job_status_check
_.log_dir
_.max_retries
_.monitor_interval
_.most_recent_k
_.nccl_ub
_.nemo_home
_.nsys_binary
_.ntasks_per_node
_.packed_sequence
_.profiling_ranks
_.profiling_start_step
_.profiling_stop_step
_.project_subpath
_.save_config_filepath
_.save_dir
_.sol
_.sol_path
_.status_retry_pause_seconds
_.supports_gpu_directives_cache
_.use_tokendrop
_.venv_path
_.verify_certs
_.wandb_entity_name
_.wandb_experiment_name
_.wandb_project_name
_.wandb_save_dir
_.warmup_iters

# Methods and attributes of submitit's classes: launcher/submitit.py.
_.get_state
_.is_done
_.job_class
_._internal_process_submissions
_._last_status_check
_._num_calls
