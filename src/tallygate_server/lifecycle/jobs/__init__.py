"""Long work on data: jobs that are asked for, run by workers, watched, cancelled, and resumed after a crash."""

from __future__ import annotations

from tallygate_server.domain.lifecycle_job import JobError, JobProgress, LifecycleJob, NewJob
from tallygate_server.lifecycle.jobs.control import JobCanceled, JobControl, JobHandler, JobLost
from tallygate_server.lifecycle.jobs.runner import LifecycleJobRunner
from tallygate_server.lifecycle.jobs.use_cases import LifecycleJobs

__all__ = [
    "JobCanceled",
    "JobControl",
    "JobError",
    "JobHandler",
    "JobLost",
    "JobProgress",
    "LifecycleJob",
    "LifecycleJobRunner",
    "LifecycleJobs",
    "NewJob",
]
