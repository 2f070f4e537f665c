/* Every operation that can wait for the cluster, under a timer whose handled signal restarts calls. No call may fail or fall short.
 * signals DIRECTORY ROUNDS INTERVAL_US */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static int failures;

static void on_signal(int signal) { (void)signal; }

static long check(const char *what, long result) {
    if (result < 0) {
        failures++;
        printf("%s: %s\n", what, strerror(errno));
    }
    return result;
}

static void list(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        check("opendir", -1);
        return;
    }
    errno = 0;
    while (readdir(dir))
        ;
    if (errno) check("readdir", -1);
    closedir(dir);
}

int main(int argc, char **argv) {
    static char buffer[1 << 20];
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    if (argc != 4 || chdir(argv[1]) < 0) return 2;
    int interval = atoi(argv[3]);
    struct itimerval timer = {{0, interval}, {0, interval}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    for (int round = 0; round < atoi(argv[2]); round++) {
        char name[64], to[64];
        struct stat st;
        snprintf(name, sizeof name, "f%d-%d", getpid(), round);
        snprintf(to, sizeof to, "g%d-%d", getpid(), round);
        int fd = check("open", open(name, O_CREAT | O_EXCL | O_RDWR, 0644));
        for (int i = 0; i < 4; i++) {
            long written = check("write", write(fd, buffer, sizeof buffer));
            if (written >= 0 && written != (long)sizeof buffer) check("short write", -1);
        }
        check("fsync", fsync(fd));
        check("ftruncate", ftruncate(fd, 12345));
        long length = check("pread", pread(fd, buffer, sizeof buffer, 0));
        if (length >= 0 && length != 12345) check("short read", -1);
        check("close", close(fd));
        check("link", link(name, to));
        check("unlink", unlink(name));
        check("rename", rename(to, name));
        check("chmod", chmod(name, 0600));
        check("stat", stat(name, &st));
        check("symlink", symlink("target", to));
        check("readlink", readlink(to, buffer, sizeof buffer));
        check("unlink symlink", unlink(to));
        fd = check("open truncating", open(name, O_TRUNC | O_RDWR));
        check("close", close(fd));
        check("mkdir", mkdir(to, 0755));
        list(".");
        check("rmdir", rmdir(to));
        check("unlink", unlink(name));
    }
    return failures != 0;
}
