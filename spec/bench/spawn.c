/* Runs a command again and again and waits for each: spawn seconds command ...
 * Prints: CPU seconds of the children, wall seconds, how many, the largest one's KB. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu(const struct rusage *usage) {
  return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
         (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

static void run(char **command) {
  int status;
  pid_t child = vfork();
  if (child == 0) {
    execvp(command[0], command);
    _exit(127);
  }
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
    fprintf(stderr, "%s failed\n", command[0]);
    exit(1);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  double seconds = atof(argv[1]);
  struct rusage before, after;
  run(argv + 2);
  getrusage(RUSAGE_CHILDREN, &before);
  double start = now();
  int count = 0;
  do {
    run(argv + 2);
    count++;
  } while (now() - start < seconds);
  double wall = now() - start;
  getrusage(RUSAGE_CHILDREN, &after);
  printf("%.9f %.9f %d %ld\n", cpu(&after) - cpu(&before), wall, count, after.ru_maxrss);
  return 0;
}
