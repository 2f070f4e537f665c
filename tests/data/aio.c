/* Asynchronous direct writes, each followed by a read through the page cache, while other threads read through it.
 * aio FILE ROUNDS */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SIZE = 32768 };
static const char *path;
static volatile int stop;

static void *reader(void *unused) {
    int fd = open(path, O_RDONLY);
    char buffer[SIZE];
    while (!stop)
        if (pread(fd, buffer, SIZE, 0) < 0) break;
    close(fd);
    return unused;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    path = argv[1];
    int direct = open(path, O_CREAT | O_RDWR | O_TRUNC | O_DIRECT, 0644), cached = open(path, O_RDONLY);
    char *data, seen[SIZE];
    aio_context_t context = 0;
    if (direct < 0 || cached < 0 || posix_memalign((void **)&data, 4096, SIZE)) return 2;
    if (syscall(SYS_io_setup, 8, &context) < 0) return 2;
    memset(data, 1, SIZE);
    if (pwrite(direct, data, SIZE, 0) != SIZE) return 2;
    char *mapped = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, cached, 0);
    pthread_t readers[2];
    for (int i = 0; i < 2; i++) pthread_create(&readers[i], NULL, reader, NULL);
    int stale = 0;
    for (int round = 0; round < atoi(argv[2]); round++) {
        memset(data, round % 250 + 2, SIZE);
        struct iocb write = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = direct, .aio_buf = (unsigned long)data,
                             .aio_nbytes = SIZE};
        struct iocb *writes = &write;
        struct io_event done;
        if (syscall(SYS_io_submit, context, 1, &writes) != 1) return 2;
        if (syscall(SYS_io_getevents, context, 1, 1, &done, NULL) != 1 || done.res != SIZE) return 2;
        if (pread(cached, seen, SIZE, 0) != SIZE || memcmp(seen, data, SIZE)) stale++;
        if (memcmp(mapped, data, SIZE)) stale++;
    }
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(readers[i], NULL);
    printf("%d stale\n", stale);
    return stale != 0;
}
