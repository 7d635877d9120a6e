/* Loaded into a program before its libraries: the first sleeps of a process take a tenth of their time.
 *
 * So MindSpore's processes wait for each other, by whole seconds, when they come together and when they part. What
 * counts its sleeps, to give up after many, has about as much time as before.
 */
#include <stdatomic.h>
#include <unistd.h>

enum { SHORT = 40, TENTH = 100000 };
static atomic_uint slept;

unsigned sleep(unsigned seconds)
{
    usleep(seconds * TENTH * (atomic_fetch_add(&slept, 1) < SHORT ? 1 : 10));
    return 0;
}
